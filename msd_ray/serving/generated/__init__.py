"""What protoc made of services/ensemble/ensemble.proto; `make proto` makes it again."""

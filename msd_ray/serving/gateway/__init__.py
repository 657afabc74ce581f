"""The service as gRPC and as HTTP. Does not know Ray."""

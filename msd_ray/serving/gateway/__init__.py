"""The service as gRPC and as HTTP. Knows neither Ray nor torch."""

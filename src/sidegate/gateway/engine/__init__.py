"""The proxy engine: upstreams from links and subscriptions, its configuration and process, the choice of upstream."""

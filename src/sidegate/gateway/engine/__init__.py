"""The proxy engine: upstreams out of links and subscriptions, its configuration, its process, which upstream is used."""

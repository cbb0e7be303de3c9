"""Put what is behind a URL into a bucket, provably whole."""

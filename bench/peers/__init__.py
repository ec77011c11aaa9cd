"""The proxies under comparison; each one's configuration lies beside this file."""

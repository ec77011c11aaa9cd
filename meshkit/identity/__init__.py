"""Who a peer is: SPIFFE ids, chains, requests for certificates, rotation."""

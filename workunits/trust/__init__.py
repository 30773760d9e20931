"""Who said it, and is it whole: digests, inclusion proofs, envelopes, roles. Bytes in, trusted object out."""

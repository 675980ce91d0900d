"""Our one nft table as text: masquerade and proofs, the split, what the box offers; and from one text to the next."""

"""Other methods on the same data, loop and doors as AXON: trivial ones, Repeat & Concatenate, X2CT-GAN, X-ray2CTPA."""

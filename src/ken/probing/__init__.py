"""What is inside but unsaid: hidden states read by the output head, and decoders that use them."""

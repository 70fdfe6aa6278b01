"""Parts that several engines share: audio, batching, chunks, messages, options, tokenisation."""

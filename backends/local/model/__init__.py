"""Facts that a worker tells of its model: tokens, chat template, the grammars and efforts that fit it."""

"""Amazon Bedrock: Claude, Nova and open models behind AWS's authentication."""

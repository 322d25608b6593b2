"""gptcore: a GPT-2-class language model library on torch alone."""

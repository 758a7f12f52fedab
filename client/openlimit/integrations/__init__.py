"""Limiters inside the SDKs: each module needs its own package, none is imported by openlimit.

http          a transport for any SDK that takes an httpx or httpx2 client
anthropic     middleware for Anthropic's SDK
langchain     a rate limiter for LangChain's chat models
litellm       a callback for LiteLLM
"""

"""Sessions: what runs a program on arrays. One implementation per runtime, and a fake for tests."""

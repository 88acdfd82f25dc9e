"""The Partner Central Account API: calling it, understanding its errors, standing in for it."""

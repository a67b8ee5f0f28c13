"""The room routers."""

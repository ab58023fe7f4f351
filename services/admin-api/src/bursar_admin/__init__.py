"""The admin API: governance commands become events; queries are answered from a projection of them."""

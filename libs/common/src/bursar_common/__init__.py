"""What Bursar's services share: contracts, money, windows, prices, and ports to the engines."""

"""The four stages of using tools, each exchangeable: planning, selection, calling, response (card 49)."""

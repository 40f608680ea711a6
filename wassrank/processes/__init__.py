"""A batch that several processes share: who has which of its queries and passages, and what they tell one another."""

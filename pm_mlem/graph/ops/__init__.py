"""Operations of our own, and what runs them."""

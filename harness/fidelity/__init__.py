"""How near a compressed expert stays to the expert: likelihoods on its own domain, teacher-forced over the answers."""

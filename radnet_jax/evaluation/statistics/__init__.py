"""Bootstrap over patients, Welch over seeds, Holm, equivalence, smallest detectable differences."""

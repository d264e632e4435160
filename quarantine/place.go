package quarantine

// Place decides where a device belongs.
func Place(f Facts) Placement { return Placement{} }

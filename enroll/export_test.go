package enroll

// NewMemoryStore is the tests' own Store, for the suite that every Store must pass.
func NewMemoryStore() Store { return newMemory() }

package enroll_test

import (
	"testing"

	"lazaret/enroll"
	"lazaret/internal/store/enrolltest"
)

// TestMemoryStore holds the store that the desk is tested on to the contract of the real one.
func TestMemoryStore(t *testing.T) {
	enrolltest.Run(t, func(*testing.T) enroll.Store { return enroll.NewMemoryStore() })
}

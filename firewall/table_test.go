package firewall

import (
	"log/slog"
	"testing"
)

// open opens the table of this process's own network namespace.
func open(t testing.TB) *Table {
	t.Helper()
	return openAt(t, 0)
}

func openAt(t testing.TB, ns int) *Table {
	t.Helper()
	table, err := Open(Config{NetNS: ns, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

package firewall

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDiscarded fails after something was queued. What is written next goes to the kernel
// whole, with the messages of both kinds, and takes nothing along of what was thrown away.
func TestDiscarded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	table := open(t)
	r, e := crowd(10)
	must(t, table.Fill(r, e))
	third, stranger := device(r.Pools[1], 3)[0], device(r.Pools[1], 99)

	other := r
	other.Table = "other"
	if err := table.Fill(other, e); !errors.Is(err, ErrDoubt) {
		t.Fatalf("another name for the table: %v, want doubt", err)
	}
	table.next.library().AddTable(kernelTable("half"))
	b := batch{}
	b.routed(r, []Routed{{stranger[0], 1, After(time.Hour)}, {stranger[1], 1, After(time.Hour)}}, Now(), moment)
	table.add(r, b)
	if err := table.discard(unix.EINVAL); !errors.Is(err, ErrDoubt) || !errors.Is(err, unix.EINVAL) {
		t.Fatalf("thrown away: %v", err)
	}

	r.Outside = nil
	_, none := crowd(0)
	must(t, table.Fill(r, none))
	if table.has("routed4", third) {
		t.Error("a device that was taken out is still routed")
	}
	for f, name := range []string{"routed4", "routed6"} {
		if table.has(name, stranger[f]) {
			t.Errorf("%s holds an element that was thrown away", name)
		}
	}
	if list, err := table.conn.ListTables(); err != nil || len(list) != 1 || list[0].Name != r.Table {
		t.Errorf("there are %d tables (%v), want one", len(list), err)
	}
	must(t, table.Verify())
	must(t, table.Remove())
	if list, err := table.conn.ListTables(); err != nil || len(list) != 0 {
		t.Errorf("removed, and there are %d tables (%v)", len(list), err)
	}
}

// TestNothingIsLost: what was queued and is not there to be sent is doubt, and no success.
func TestNothingIsLost(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	table := open(t)
	r, e := crowd(10)
	must(t, table.Fill(r, e))
	lost, err := newTransaction(table.next.socket)
	must(t, err)
	table.next.build = lost.build // which hands over to another
	if err := table.Fill(r, e); !errors.Is(err, ErrDoubt) || !errors.Is(err, errLost) {
		t.Errorf("messages that are lost: %v, want doubt", err)
	}
	if err := table.Apply(Change{}); !errors.Is(err, ErrDoubt) {
		t.Errorf("a change after that: %v, want doubt", err)
	}
}

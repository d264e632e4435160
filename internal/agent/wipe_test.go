package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestShredSparesWhatIsNamed, and overwrites and removes everything else, directories too.
func TestShredSparesWhatIsNamed(t *testing.T) {
	a, _ := newAgent(t)
	must(t, os.MkdirAll(filepath.Join(a.store.dir, "more", "of it"), 0o700))
	secret := filepath.Join(a.store.dir, "more", "of it", "secret")
	put(t, secret, "a secret of some length")
	again := filepath.Join(t.TempDir(), "second name") // shows what becomes of the blocks
	must(t, os.Link(secret, again))
	must(t, a.store.shred([]string{keyFile, "lock"}))
	list, err := os.ReadDir(a.store.dir)
	must(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{keyFile}) {
		t.Errorf("left: %v", names)
	}
	if text, err := os.ReadFile(again); err != nil || !bytes.Equal(text, make([]byte, len("a secret of some length"))) {
		t.Errorf("the removed file held %q, %v", text, err)
	}
}

// TestWipeOrderThatCannotBeRead is one all the same: nothing else runs before it.
func TestWipeOrderThatCannotBeRead(t *testing.T) {
	a, _ := newAgent(t)
	if o, err := a.store.wipeOrder(); o != nil || err != nil {
		t.Errorf("without an order: %+v, %v", o, err)
	}
	must(t, a.store.write(wipingFile, []byte("{")))
	if o, err := a.store.wipeOrder(); o == nil || err != nil || !o.Told {
		t.Errorf("an order that was cut short: %+v, %v", o, err)
	}
}

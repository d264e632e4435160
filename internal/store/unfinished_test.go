package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
)

// emptied blanks what etcd's log at path holds after its head, as it is until the first entry
// was written to it.
func emptied(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	records := wal.NewDecoder(fileutil.NewFileReader(f))
	rec, head := &walpb.Record{}, int64(0)
	for rec.GetType() != wal.EntryType {
		head = records.LastOffset()
		if err := records.Decode(rec); err != nil {
			t.Fatal(err)
		}
		if rec.GetType() == wal.CrcType {
			records.UpdateCRC(rec.GetCrc())
		}
	}
	if _, err := f.WriteAt(make([]byte, 1<<20), head); err != nil {
		t.Fatal(err)
	}
}

// TestFirstStartCutShort opens a store whose first start ended before its log had an entry, with
// and without its database, and one whose database tells that more than that was lost.
func TestFirstStartCutShort(t *testing.T) {
	c := config(t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	member := filepath.Join(c.Dir, "member")
	openAndClose := func() error {
		s, err := Open(ctx, c)
		if err != nil {
			return err
		}
		_, err = s.client.Put(ctx, "test/after", "it works")
		return errors.Join(err, s.Close())
	}
	if err := openAndClose(); err != nil {
		t.Fatal(err)
	}
	emptied(t, filepath.Join(member, "wal", firstSegment))
	if err := openAndClose(); !errors.Is(err, errLogLost) {
		t.Errorf("opened over a database without its log: %v", err)
	}
	if _, err := os.Stat(filepath.Join(member, "snap", "db")); err != nil {
		t.Errorf("it was removed: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(member, "snap")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.AuditDir); err != nil { // what was written there is of the other store
		t.Fatal(err)
	}
	for range 2 {
		if err := openAndClose(); err != nil {
			t.Fatal(err)
		}
	}
}

package store

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
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

// TestFirstStartCutShort opens a store whose first start ended before its log had an entry,
// with and without its database, and one in use whose log was lost, whatever is left of it.
func TestFirstStartCutShort(t *testing.T) {
	c := config(t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	member := filepath.Join(c.Dir, "member")
	db := filepath.Join(member, "snap", "db")
	openAndClose := func() error {
		s, err := Open(ctx, c)
		if err != nil {
			return err
		}
		_, err = s.client.Put(ctx, "test/after", "it works")
		return errors.Join(err, s.Close())
	}
	refuses := func(what string) {
		t.Helper()
		if err := openAndClose(); !errors.Is(err, errLogLost) {
			t.Errorf("opened %s: %v", what, err)
		}
	}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(openAndClose())
	emptied(t, filepath.Join(member, "wal", firstSegment))
	audit := filepath.Join(c.AuditDir, "segment-0000000001.jsonl")
	must(os.MkdirAll(c.AuditDir, 0o700), os.WriteFile(audit, []byte("{}\n"), 0o600))
	refuses("beside audit entries")
	must(os.RemoveAll(c.AuditDir))
	refuses("over a database without its log")
	must(os.Rename(db, db+".broken"))
	refuses("where the database was set aside")
	if _, err := os.Stat(db + ".broken"); err != nil {
		t.Errorf("it was removed: %v", err)
	}
	must(os.Remove(db + ".broken"))
	must(os.Symlink("db", db))
	refuses("where the database cannot be asked")
	must(os.RemoveAll(filepath.Dir(db)))
	for range 2 {
		must(openAndClose())
	}
}

// TestDatabaseOfAFirstStart: which databases are those of a first start, by their last entry.
func TestDatabaseOfAFirstStart(t *testing.T) {
	made := func(path string, index int) {
		d, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = d.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket([]byte("meta"))
			if err != nil || index < 0 {
				return err
			}
			return b.Put([]byte("consistent_index"), binary.BigEndian.AppendUint64(nil, uint64(index)))
		})
		if err := errors.Join(err, d.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		name string
		make func(path string)
		used bool
	}{
		{"no entry", func(p string) { made(p, -1) }, false},
		{"0", func(p string) { made(p, 0) }, false},
		{"1", func(p string) { made(p, 1) }, false},
		{"2", func(p string) { made(p, 2) }, true},
		{"300", func(p string) { made(p, 300) }, true},
		{"nothing in it", func(p string) { _ = os.WriteFile(p, nil, 0o600) }, false},
		{"zeros", func(p string) { _ = os.WriteFile(p, make([]byte, 1<<16), 0o600) }, false},
		{"a page of zeros", func(p string) { _ = os.WriteFile(p, make([]byte, 4096), 0o600) }, false},
		{"half a page", func(p string) { _ = os.WriteFile(p, make([]byte, 2048), 0o600) }, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := config(t.TempDir())
			snap := filepath.Join(c.Dir, "member", "snap")
			if err := os.MkdirAll(snap, 0o700); err != nil {
				t.Fatal(err)
			}
			x.make(filepath.Join(snap, "db"))
			if used, err := wasUsed(c, snap, zap.NewNop()); used != x.used || err != nil {
				t.Errorf("in use: %v, %v", used, err)
			}
		})
	}
}

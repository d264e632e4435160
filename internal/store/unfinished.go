package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

// firstSegment is where etcd's log begins, until a snapshot makes it superfluous.
const firstSegment = "0000000000000000-0000000000000000.wal"

var errLogLost = errors.New("its log is empty, but its database is not: it was damaged, and has to be restored")

// dropUnfinished removes what a member's first start left in c.Dir that ended, by a power cut, say,
// between making its log and writing to it who the member is. etcd takes such a log for the one
// of a member that others will tell, and waits for them for ever. Nothing was ever acknowledged
// there. Where the database knows of anything, nothing is removed, and an error says so.
func dropUnfinished(c Config, log *zap.Logger) error {
	member := filepath.Join(c.Dir, "member")
	begun, err := begun(filepath.Join(member, "wal"))
	if err != nil {
		return fmt.Errorf("looking whether the first start came to its end: %w", err)
	}
	if begun {
		return nil
	}
	snap := filepath.Join(member, "snap")
	db := filepath.Join(snap, "db")
	if _, err := os.Stat(db); err == nil {
		if applied(db, log) > 1 { // the membership may have been applied while it was being written
			return errLogLost
		}
	}
	c.Log.Warn("the store's first start was cut short, and begins again")
	// The log last: while it is there, the next start comes here again.
	for _, part := range []string{snap, filepath.Join(member, "wal")} {
		if err := os.RemoveAll(part); err != nil {
			return fmt.Errorf("removing an unfinished first start: %w", err)
		}
	}
	return nil
}

// begun reports whether anything was agreed by the log in dir: etcd writes with the first entry
// what is agreed by it. True as well where there is no log, or no beginning of one.
func begun(dir string) (bool, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) != 1 {
		return true, err
	}
	f, err := os.Open(filepath.Join(dir, firstSegment))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	records := wal.NewDecoder(fileutil.NewFileReader(f))
	for rec := (&walpb.Record{}); ; {
		err := records.Decode(rec)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return false, nil
		case err != nil:
			return false, err
		case rec.GetType() == wal.StateType:
			return true, nil
		case rec.GetType() == wal.CrcType:
			records.UpdateCRC(rec.GetCrc())
		}
	}
}

// applied is the number of the last entry that the database at path knows of.
func applied(path string, log *zap.Logger) uint64 {
	b := backend.NewDefaultBackend(log, path)
	defer b.Close()
	tx := b.BatchTx()
	schema.CreateMetaBucket(tx)
	index, _ := schema.ReadConsistentIndex(b.ReadTx())
	return index
}

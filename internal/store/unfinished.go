package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

// firstSegment is where etcd's log begins, until a snapshot makes it superfluous.
const firstSegment = "0000000000000000-0000000000000000.wal"

// errLogLost: the log is what is true, and without it nobody knows what the database lacks.
var errLogLost = errors.New("its log is empty, but the store was in use: keep a copy of its directory, which is left as it is, and make a new gateway in another one")

// dropUnfinished puts aside what a member's first start left in c.Dir that ended, by a power cut,
// say, between making its log and writing to it who the member is. etcd takes such a log for the
// one of a member that others will tell, and waits for them for ever. Nothing was ever
// acknowledged there. Where anything says that the store was in use, or cannot be asked, nothing
// is touched, and an error says so.
func dropUnfinished(c Config, log *zap.Logger) error {
	member := filepath.Join(c.Dir, "member")
	begun, err := begun(filepath.Join(member, "wal"))
	if err != nil {
		return fmt.Errorf("looking whether the first start came to its end: %w", err)
	}
	if begun {
		return nil
	}
	used, err := wasUsed(c, filepath.Join(member, "snap"), log)
	if err != nil {
		return fmt.Errorf("looking whether the first start came to its end: %w", err)
	}
	if used {
		return errLogLost
	}
	c.Log.Warn("the store's first start was cut short, and begins again")
	aside := member + ".unfinished" // of an earlier time there is no more to learn
	if err := errors.Join(os.RemoveAll(aside), os.Rename(member, aside)); err != nil {
		return fmt.Errorf("putting an unfinished first start aside: %w", err)
	}
	return nil
}

// wasUsed reports whether a store without a log was in use: its audit log has an entry, its
// database knows of more than the membership, or there is anything else beside the database. A
// first start is over before the first audit entry.
func wasUsed(c Config, snap string, log *zap.Logger) (bool, error) {
	entries, err := os.ReadDir(c.AuditDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return false, err
		}
		if e.IsDir() || info.Size() > 0 {
			return true, nil
		}
	}
	files, err := os.ReadDir(snap)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, f := range files {
		if f.Name() != "db" || !f.Type().IsRegular() {
			return true, nil
		}
	}
	if len(files) == 0 {
		return false, nil
	}
	n, err := applied(filepath.Join(snap, "db"))
	if errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) || errors.Is(err, berrors.ErrVersionMismatch) {
		log.Warn("the database of an unfinished first start cannot be read", zap.Error(err)) // half of it was written
		return false, nil
	}
	return n > firstEntry, err
}

// firstEntry is the last entry of a first start that may have been applied while the log was
// being written: who the member is.
const firstEntry = 1

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

// wholeDatabase is the least that bbolt's files have, in bytes: four pages, written at once.
const wholeDatabase = 4 * 4096

// applied is the number of the last entry that the database at path knows of.
func applied(path string) (n uint64, err error) {
	if info, err := os.Stat(path); err != nil || info.Size() < wholeDatabase {
		return 0, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return 0, fmt.Errorf("opening %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(schema.Meta.Name())
		if meta == nil {
			return nil
		}
		if v := meta.Get(schema.MetaConsistentIndexKeyName); len(v) == 8 {
			n = binary.BigEndian.Uint64(v)
		}
		return nil
	})
	return n, err
}

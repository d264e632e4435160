package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/internal/seal"
	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

// The desk reads profiles and pools from the store itself.
var _ enroll.Organization = (*Store)(nil)

var admin = quarantine.Actor{Kind: "administrator", Name: "root", Address: "192.0.2.1"}

// config is a store in a directory, without ballast.
func config(dir string) Config {
	return Config{
		Dir: filepath.Join(dir, "etcd"), AuditDir: filepath.Join(dir, "audit"),
		Ring: seal.New(), Gateway: "gw1", Ballast: -1,
	}
}

// open opens a store and closes it with the test.
func open(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func fresh(t testing.TB) *Store { return open(t, config(t.TempDir())) }

func TestEnrollStore(t *testing.T) {
	enrolltest.Run(t, func(t *testing.T) enroll.Store { return fresh(t) })
}

// Every field of a record must come back, also those that are added later.
func TestStoredShapesAreLossless(t *testing.T) {
	var rec quarantine.Record
	fill(reflect.ValueOf(&rec).Elem(), 1)
	value, err := encodeRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRecord(&mvccpb.KeyValue{Value: []byte(value), ModRevision: rec.Revision})
	if d := cmp.Diff(rec, got); d != "" || err != nil {
		t.Errorf("record: %v (-want +got):\n%s", err, d)
	}
	var otp enroll.OTP
	fill(reflect.ValueOf(&otp).Elem(), 1)
	if value, err = encodeOTP(otp); err != nil {
		t.Fatal(err)
	}
	gotOTP, err := decodeOTP(&mvccpb.KeyValue{Value: []byte(value), ModRevision: otp.Revision})
	if d := cmp.Diff(otp, gotOTP); d != "" || err != nil {
		t.Errorf("OTP: %v (-want +got):\n%s", err, d)
	}
	// Zero values stay zero, and empty is not nil.
	value, _ = encodeRecord(quarantine.Record{})
	if got, err := decodeRecord(&mvccpb.KeyValue{Value: []byte(value)}); err != nil || !cmp.Equal(got, quarantine.Record{}) {
		t.Errorf("the zero record came back as %+v, %v", got, err)
	}
	empty := quarantine.Record{Reports: map[string]quarantine.Report{}, Reasons: []quarantine.Reason{}}
	value, _ = encodeRecord(empty)
	if got, _ := decodeRecord(&mvccpb.KeyValue{Value: []byte(value)}); !cmp.Equal(got, empty) {
		t.Errorf("empty lists came back as %+v", got)
	}
	if _, err := decodeRecord(&mvccpb.KeyValue{Value: []byte(`{"v":2,"id":"x"}`)}); err == nil {
		t.Error("a record of a later version was read")
	}
}

// fill sets every field of v to something that is not zero, each to something else.
func fill(v reflect.Value, n int) int {
	switch v.Kind() {
	case reflect.String:
		v.SetString(strings.Repeat("x", n%50+1))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Uint, reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(n%200 + 1))
	case reflect.Array:
		for i := range v.Len() {
			n = fill(v.Index(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			n = fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			n = fill(k, n)
			n = fill(e, n)
			v.SetMapIndex(k, e)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1_700_000_000+int64(n), 123_456_789).UTC()))
			break
		}
		for i := range v.NumField() {
			n = fill(v.Field(i), n)
		}
	default:
		panic("a field of kind " + v.Kind().String())
	}
	return n + 1
}

func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	seedPools(t, s)
	rec := enrolltest.Enroll(t, s, 1)
	if err := s.Secrets().Put(t.Context(), "ca", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	before, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, c)
	after, err := s.Snapshot(t.Context())
	if d := cmp.Diff(before, after, cmp.Comparer(func(a, b quarantine.Pool) bool { return reflect.DeepEqual(a, b) })); d != "" || err != nil {
		t.Errorf("%v (-before +after):\n%s", err, d)
	}
	if got := after.Records[rec.ID]; !cmp.Equal(got, rec) {
		t.Errorf("record %+v", got)
	}
	if got, err := s.Secrets().Get(t.Context(), "ca"); err != nil || string(got) != "kept" {
		t.Errorf("secret %q, %v", got, err)
	}
	if next := enrolltest.Enroll(t, s, 2); next.Seat != 2 {
		t.Errorf("seat %d after a restart, want 2", next.Seat)
	}
}

func TestNoPlaintextOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, config(dir))
	const secret = "-----BEGIN PRIVATE KEY----- of the issuing CA"
	if err := s.Secrets().Put(t.Context(), "ca.device", []byte(secret)); err != nil {
		t.Fatal(err)
	}
	tok := Token{Name: "mdm", Sum: enrolltest.SPKI(7), Scope: "report", Source: "fleet"}
	if err := s.PutToken(t.Context(), admin, tok); err != nil {
		t.Fatal(err)
	}
	if err := s.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.etcd.Backend().ForceCommit()
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != dir && info.Mode().Perm() != 0o700 {
				t.Errorf("%s has mode %v, want 0700", path, info.Mode().Perm())
			}
			return nil
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: others may read it", path, info.Mode().Perm())
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("ca.device")) {
			seen++ // the name is no secret, and shows that the search finds things
		}
		if bytes.Contains(b, []byte(secret)) || bytes.Contains(b, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds the secret in plaintext", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 2 {
		t.Errorf("the secret's name is in %d files, want the database, its log and the audit log", seen)
	}
	kv, err := s.client.Get(t.Context(), secretPrefix+"ca.device")
	if err != nil || len(kv.Kvs) != 1 || len(kv.Kvs[0].Value) != len(secret)+seal.Overhead {
		t.Errorf("stored as %d keys, %v", len(kv.Kvs), err)
	}
	// Moved to another name, a sealed value is worth nothing.
	if _, err := s.client.Put(t.Context(), secretPrefix+"other", string(kv.Kvs[0].Value)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Secrets().Get(t.Context(), "other"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("a secret under another name: %v", err)
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := open(t, c)
	ctx := t.Context()
	x := s.Secrets()
	if _, err := x.Get(ctx, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
	if err := x.Create(ctx, "a", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := x.Create(ctx, "a", []byte("two")); !errors.Is(err, enroll.ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	if err := x.Put(ctx, "b", []byte("other")); err != nil {
		t.Fatal(err)
	}
	old := c.Ring.Keys()[0]
	otp := enrolltest.OTP(1)
	var err error
	if otp.Secret, err = c.Ring.Seal(enroll.SecretContext(otp), []byte("0A1B2C3D")); err != nil {
		t.Fatal(err)
	}
	otp = enrolltest.Create(t, s, otp)
	if _, err := c.Ring.Add(); err != nil {
		t.Fatal(err)
	}
	if err := s.Rewrap(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Ring.Drop(old); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "one", "b": "other"} {
		if got, err := x.Get(ctx, name); err != nil || string(got) != want {
			t.Errorf("%s under the new ring key: %q, %v", name, got, err)
		}
	}
	if otp, err = s.OTP(ctx, otp.Reference); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Ring.Open(enroll.SecretContext(otp), otp.Secret); err != nil || string(got) != "0A1B2C3D" {
		t.Errorf("one-time password under the new ring key: %q, %v", got, err)
	}
	revision := otp.Revision
	if err := s.Rewrap(ctx); err != nil {
		t.Error(err)
	}
	if otp, _ = s.OTP(ctx, otp.Reference); otp.Revision != revision {
		t.Error("rewrapped what was under the newest key")
	}
	if err := s.Compact(ctx); err != nil {
		t.Error(err)
	}
	if err := x.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if names, err := x.Names(ctx); err != nil || !cmp.Equal(names, []string{"b"}) {
		t.Errorf("left %v, %v", names, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	if _, err := Open(t.Context(), Config{}); err == nil {
		t.Error("opened without a configuration")
	}
	for _, name := range []string{"", "a=b", "a,b", "a\nb"} {
		c := config(t.TempDir())
		c.Gateway = name
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("opened as gateway %q", name)
		}
	}
	// An audit log that was cut below the stored head must not be written on.
	c := config(t.TempDir())
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), c); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	enrolltest.Enroll(t, s, 1)
	if err := s.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	segment := filepath.Join(c.AuditDir, "segment-0000000001.jsonl")
	b, _ := os.ReadFile(segment)
	cut := bytes.LastIndexByte(b[:len(b)-1], '\n') + 1
	if err := os.Truncate(segment, int64(cut)); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(t.Context(), c); !errors.Is(err, audit.ErrBroken) {
		if err == nil {
			s.Close()
		}
		t.Fatalf("opened on a cut audit log: %v", err)
	}
	c.AcceptAuditBreak = true
	s = open(t, c)
	enrolltest.Enroll(t, s, 2)
	head, err := s.AuditLog().Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := audit.Verify(c.AuditDir, head)
	if err != nil || len(r.Breaks) != 1 {
		t.Errorf("after accepting: %+v, %v", r, err)
	}
}

// Nothing may listen: whoever reaches etcd's ports is the organization.
func TestNoListener(t *testing.T) {
	s := fresh(t)
	enrolltest.Enroll(t, s, 1)
	own := map[string]string{}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				own[strings.TrimSuffix(inode, "]")] = fd.Name()
			}
		}
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, err := os.ReadFile("/proc/self/net/" + table)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 9 && own[f[9]] != "" {
				t.Errorf("this process has a %s socket: %s", table, line)
			}
		}
	}
}

func seedPools(t testing.TB, s *Store) {
	t.Helper()
	for _, p := range pools() {
		if err := s.PutPool(t.Context(), admin, p); err != nil {
			t.Fatal(err)
		}
	}
}

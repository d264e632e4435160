// Package agent is the device's side: it enrolls, holds the tunnel, follows moves, keeps
// the schedule of management sessions, reports posture and renews its certificate. It
// decides nothing about where the device belongs.
package agent

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/internal/durable"
	"lazaret/quarantine/tunnel"
)

// ErrNotEnrolled reports a state directory without an enrollment.
var ErrNotEnrolled = errors.New("this device is not enrolled: run lazaret enroll --server URL")

const (
	stateFile     = "device.json"
	keyFile       = "device.key"
	wireguardFile = "wireguard.key"
	nextKeyFile   = "device-next.key" // on the disk before a renewal is asked for
	nextWireguard = "wireguard-next.key"
)

// state is what enrollment left on the device, but for the two private keys, which have
// files of their own. Everything is 0600.
type state struct {
	Version     int          `json:"v"` // 1
	Server      string       `json:"server"`
	User        int          `json:"uid"`  // who enrolled, and may drive the agent beside root
	Root        []byte       `json:"root"` // DER, pinned
	Certificate []byte       `json:"certificate"`
	Chain       [][]byte     `json:"chain"` // issuing certificates, nearest first
	Listeners   [][]byte     `json:"listener_keys"`
	ProofKeyID  string       `json:"proof_key_id"` // the gateway's, for the proof of the WireGuard key in a renewal
	ProofKey    []byte       `json:"proof_key"`
	Settings    cmp.Settings `json:"settings"`
	Enrolled    time.Time    `json:"enrolled"`
	Obtained    time.Time    `json:"obtained"` // when the present certificate came
	Sequence    uint64       `json:"sequence"` // of the last report
	Sessions    int          `json:"sessions"` // held since the device was last quarantined
	Released    bool         `json:"released"` // a session has succeeded since
}

// store keeps one device's state in one directory.
type store struct{ dir string }

// makeStore is openStore, and makes the directory if need be.
func makeStore(dir string) (store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return store{}, fmt.Errorf("making the agent's directory: %w", err)
	}
	return openStore(dir)
}

// openStore refuses a directory that others may enter; one that is not there holds no
// enrollment.
func openStore(dir string) (store, error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return store{}, ErrNotEnrolled
	}
	if err != nil {
		return store{}, fmt.Errorf("looking at the agent's directory: %w", err)
	}
	if err := ownDirectory(dir, info); err != nil {
		return store{}, err
	}
	return store{dir}, nil
}

// errInUse reports a directory that another process works on.
var errInUse = errors.New("in use by a running agent")

// lock makes sure that one process at a time works on the directory: an enrollment under
// a running agent would be overwritten by it. What a process that was killed was writing
// is removed: it may hold a private key.
func (s store) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the agent's directory: %w", err)
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is %w: end it first with lazaret down", s.dir, errInUse)
	}
	if err := s.sweep(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// sweep removes files that were not finished: the store's own, and those of
// tunnel.LoadOrCreateKey, also as earlier versions called them. The caller holds the lock.
func (s store) sweep() error { return durable.Sweep(s.dir, 0, ".new-*", ".key-*") }

func (s store) load() (state, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		if wiped, _ := s.has(wipedFile); wiped {
			return state{}, errors.Join(ErrWiped, ErrNotEnrolled)
		}
		return state{}, ErrNotEnrolled
	}
	if err != nil {
		return state{}, fmt.Errorf("reading the enrollment: %w", err)
	}
	var st state
	if err := json.Unmarshal(text, &st); err != nil {
		return state{}, fmt.Errorf("reading the enrollment %s: %w; enroll anew with a one-time password", s.dir, err)
	}
	if st.Version != 1 {
		return state{}, fmt.Errorf("the enrollment in %s is of version %d, this agent reads 1", s.dir, st.Version)
	}
	return st, s.settleKey(st)
}

// settleKey puts the next key in place where the certificate is already its own: a
// renewal may have been cut off between the two.
func (s store) settleKey(st state) error {
	next, err := s.key(nextKeyFile, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(st.Certificate)
	if err != nil {
		return fmt.Errorf("reading the device's certificate: %w", err)
	}
	own, ok := next.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !own.Equal(leaf.PublicKey) {
		return nil
	}
	return s.rename(nextKeyFile, keyFile)
}

func (s store) save(st state) error {
	st.Version = 1
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping the enrollment: %w", err)
	}
	return s.write(stateFile, text)
}

// write replaces a file wholly or not at all, mode 0600, on the disk when it returns.
func (s store) write(name string, text []byte) error {
	return durable.Write(filepath.Join(s.dir, name), text, 0o600)
}

func (s store) rename(from, to string) error {
	if err := os.Rename(filepath.Join(s.dir, from), filepath.Join(s.dir, to)); err != nil {
		return fmt.Errorf("writing %s: %w", to, err)
	}
	return s.sync()
}

// key reads a private key, or makes a new one there with make.
func (s store) key(name string, make func() (crypto.Signer, error)) (crypto.Signer, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) && make != nil {
		return s.newKey(name, make)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the device's key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("reading the device's key: %s holds no PEM", name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the device's key: %w", err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("reading the device's key: %T cannot sign", parsed)
	}
	return signer, nil
}

func (s store) newKey(name string, make func() (crypto.Signer, error)) (crypto.Signer, error) {
	key, err := make()
	if err != nil {
		return nil, fmt.Errorf("making the device's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making the device's key: %w", err)
	}
	return key, s.write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// wireguard reads one of the tunnel's private keys, or makes it.
func (s store) wireguard(name string) (tunnel.PrivateKey, error) {
	return tunnel.LoadOrCreateKey(filepath.Join(s.dir, name))
}

// has says whether a file is there.
func (s store) has(name string) (bool, error) {
	_, err := os.Lstat(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for %s: %w", name, err)
	}
	return true, nil
}

// remove removes a file that may be there, for good when it returns.
func (s store) remove(name string) error {
	err := os.Remove(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return s.sync()
}

// sync puts the directory's names on the disk.
func (s store) sync() error {
	if err := durable.SyncDir(s.dir); err != nil {
		return fmt.Errorf("writing %s: %w", s.dir, err)
	}
	return nil
}

// certificate puts certificate, chain and key together for TLS.
func (s store) certificate(st state) (tls.Certificate, error) {
	key, err := s.key(keyFile, nil)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(st.Certificate)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading the device's certificate: %w", err)
	}
	return tls.Certificate{Certificate: append([][]byte{st.Certificate}, st.Chain...), PrivateKey: key, Leaf: leaf}, nil
}

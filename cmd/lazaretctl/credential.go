package main

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"lazaret/appliance/claim"
	"lazaret/internal/durable"
)

// credentialFiles are what lazaretctl's directory holds, in the order they are written.
var credentialFiles = []string{"root.pem", "admin.pem", "admin-key.pem", "server"}

// vacant refuses to write over a credential: it may be the only one of some gateway.
func (s *session) vacant() error {
	for _, name := range credentialFiles {
		if _, err := os.Lstat(filepath.Join(s.dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s holds a credential already; choose another directory with --dir", s.dir)
		}
	}
	return nil
}

// saveCredential writes the files that every other command reads, and the token, if any.
// What is there of an earlier try is replaced; each file is whole or not there.
func (s *session) saveCredential(c claim.Credential, token string) error {
	key, err := c.KeyPEM()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("making the credential's directory: %w", err)
	}
	texts := [][]byte{c.RootPEM(), c.ChainPEM(), key, []byte(c.Server + "\n")}
	names := slices.Clone(credentialFiles)
	if token != "" {
		names, texts = append([]string{"management-token"}, names...), append([][]byte{[]byte(token + "\n")}, texts...)
	}
	for i, name := range names {
		if err := durable.Write(filepath.Join(s.dir, name), texts[i], 0o600); err != nil {
			return fmt.Errorf("saving the credential: %w", err)
		}
	}
	return durable.Sweep(s.dir, time.Hour, ".new-*") // what crashes left, also of earlier versions, holds keys
}

// pendingFile keeps a claim under way, with its key, so that a lost answer can be asked for
// by another run of this program.
const pendingFile = "claim-pending.pem"

const pendingLife = 15 * time.Minute // longer than the machine keeps an answer

func (s *session) savePending(address string, request []byte, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("keeping the claim under way: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "LAZARET CLAIM", Headers: map[string]string{"Machine": address}, Bytes: request})...)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("making the credential's directory: %w", err)
	}
	if err := durable.Write(filepath.Join(s.dir, pendingFile), text, 0o600); err != nil {
		return fmt.Errorf("keeping the claim under way: %w", err)
	}
	return nil
}

// pending finds the claim of a machine that an earlier run left; one that is old or another
// machine's does not count.
func (s *session) pending(address string) (request []byte, key *ecdsa.PrivateKey, found bool, err error) {
	path := filepath.Join(s.dir, pendingFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && time.Since(info.ModTime()) > pendingLife {
		return nil, nil, false, nil
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, nil, false, fmt.Errorf("reading the claim under way: %w", err)
	}
	first, rest := pem.Decode(text)
	second, _ := pem.Decode(rest)
	if first == nil || second == nil || second.Headers["Machine"] != address {
		return nil, nil, false, nil
	}
	any, err := x509.ParsePKCS8PrivateKey(first.Bytes)
	if err != nil {
		return nil, nil, false, fmt.Errorf("reading the claim under way: %w; remove %s to begin anew", err, path)
	}
	key, ok := any.(*ecdsa.PrivateKey)
	return second.Bytes, key, ok, nil
}

func (s *session) dropPending() error {
	if err := os.Remove(filepath.Join(s.dir, pendingFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting the claim that is over: %w", err)
	}
	return nil
}

// connect imports a credential that a machine's page gave.
func (s *session) connect() *cobra.Command {
	return &cobra.Command{Use: "connect FILE", Short: "Import an administrator's credential, as an unclaimed machine's page gives it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readBounded(args[0], cmd.InOrStdin())
			if err != nil {
				return fmt.Errorf("reading the credential: %w", err)
			}
			c, err := claim.ParseCredential([]byte(text))
			if err != nil {
				return fmt.Errorf("reading the credential: %w", err)
			}
			if err := s.vacant(); err != nil {
				return err
			}
			if err := s.saveCredential(c, ""); err != nil {
				return err
			}
			raw, err := json.Marshal(map[string]string{"dir": s.dir, "api": c.Server})
			if err != nil {
				return err
			}
			return s.show(cmd, append(raw, '\n'), func(w io.Writer) {
				fmt.Fprintf(w, "imported the credential for %s into %s; remove %s, which holds the key\n\nNext:\n  lazaretctl %sstatus\n", c.Server, s.dir, args[0], s.where(cmd))
			})
		}}
}

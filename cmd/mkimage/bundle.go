package main

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"lazaret/appliance/update"
)

// signers reads private keys of updates: the current one, and perhaps the next.
func signers(files []string) ([]ed25519.PrivateKey, update.Keys, error) {
	var all []ed25519.PrivateKey
	keys := update.Keys{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, nil, fmt.Errorf("reading a signing key: %w", err)
		}
		key, err := update.ParsePrivateKey(text)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, key)
		pub := key.Public().(ed25519.PublicKey)
		keys[update.IDOf(pub)] = pub
	}
	return all, keys, nil
}

func bundleCommand() *cobra.Command {
	m := update.Manifest{Schema: update.Schema, Reads: update.Schema}
	var uki, out, created string
	var keys []string
	c := &cobra.Command{
		Use: "bundle", Short: "Sign a slot's file as an update", Args: cobra.NoArgs,
		Long: `Sign a slot's file as an update that machines take by upload or from a channel.

Make a key with openssl genpkey -algorithm ed25519 -out update.pem; what machines have of it
is made with openssl pkey -in update.pem -pubout. No key belongs into the repository.`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if m.Created, err = moment(created); err != nil {
				return err
			}
			m.Follows = cmp.Or(m.Follows, "0")
			if err := checkUKI(uki, m); err != nil {
				return err
			}
			out = cmp.Or(out, fmt.Sprintf("lazaret-%s-%s-%s.update", m.Version, m.Architecture, m.Flavour))
			written, size, err := writeBundle(out, uki, m, keys)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%12d bytes  %s (version %s, after %s or newer)\n", size, out, written.Version, written.Follows)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&uki, "uki", "", "the slot's file, a unified kernel image")
	f.StringArrayVar(&keys, "key", nil, "private key (PEM); give it again for the next one")
	f.StringVar(&m.Version, "version", "", "version of the slot")
	f.StringVar(&m.Architecture, "arch", "amd64", "architecture: amd64 or arm64")
	f.StringVar(&m.Flavour, "flavour", "cloud", "kernel: cloud or metal")
	f.StringVar(&m.Follows, "min-version", "", "oldest version that it may follow (default: any)")
	f.IntVar(&m.Schema, "schema", update.Schema, "schema of the data that it writes")
	f.IntVar(&m.Reads, "reads", update.Schema, "oldest schema that it reads")
	f.StringVar(&m.Notes, "notes", "", "https URL of what is new")
	f.StringVar(&created, "created", "", "time of the release (RFC 3339; default: $SOURCE_DATE_EPOCH, else now)")
	f.StringVarP(&out, "out", "o", "", "file to write (default: lazaret-VERSION-ARCH-FLAVOUR.update)")
	for _, name := range []string{"uki", "key", "version"} {
		_ = c.MarkFlagRequired(name)
	}
	return c
}

// moment reads a time; without one it is the build's.
func moment(text string) (time.Time, error) {
	if text != "" {
		return time.Parse(time.RFC3339, text)
	}
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		var n int64
		if _, err := fmt.Sscan(epoch, &n); err != nil {
			return time.Time{}, fmt.Errorf("reading SOURCE_DATE_EPOCH: %w", err)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	return time.Now().UTC().Truncate(time.Second), nil
}

// checkUKI holds the file to what the bundle will say of it.
func checkUKI(name string, m update.Manifest) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("reading the slot's file: %w", err)
	}
	defer f.Close()
	if err := update.CheckSlot(f, m); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// writeBundle writes a bundle, reads it as a machine will, and gives it its name then.
func writeBundle(out, uki string, m update.Manifest, keys []string) (_ update.Manifest, size int64, err error) {
	private, public, err := signers(keys)
	if err != nil {
		return m, 0, err
	}
	image, err := os.Open(uki)
	if err != nil {
		return m, 0, fmt.Errorf("reading the slot's file: %w", err)
	}
	defer image.Close()
	f, err := os.CreateTemp(filepath.Dir(out), ".bundle-")
	if err != nil {
		return m, 0, fmt.Errorf("writing the bundle: %w", err)
	}
	defer os.Remove(f.Name()) // after the rename there is none
	defer f.Close()
	if m, err = update.Write(f, m, image, private...); err != nil {
		return m, 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return m, 0, err
	}
	read, err := update.Open(f, public)
	if err == nil {
		err = read.Copy(io.Discard, f)
	}
	if err != nil {
		return m, 0, fmt.Errorf("reading the bundle back: %w", err)
	}
	at, err := f.Stat()
	if err != nil {
		return m, 0, err
	}
	return m, at.Size(), errors.Join(f.Chmod(0o644), f.Sync(), os.Rename(f.Name(), out))
}

func channelCommand() *cobra.Command {
	var name, dir, start string
	var keys []string
	var percent, hours int
	var fresh time.Duration
	c := &cobra.Command{
		Use: "channel BUNDLE...", Short: "Sign a channel's list of updates", Args: cobra.MinimumNArgs(1),
		Long: `Sign the list of a channel: a directory on any web server (HTTPS) with bundles and the
list beside them. Machines ask for the list every six hours; it must be signed anew before it
is out of date, which shows them a server that hides what is new.

Of machines that update by themselves, the first begin at --start and the others follow over
--hours; --percent bounds how many do. 0 stops them.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			private, public, err := signers(keys)
			if err != nil {
				return err
			}
			now, err := moment("")
			if err != nil {
				return err
			}
			begin, err := moment(start)
			if err != nil {
				return err
			}
			list := update.Channel{Name: name, Created: now, Expires: now.Add(fresh)}
			for _, file := range args {
				r, err := releaseOf(filepath.Join(dir, file), public)
				if err != nil {
					return err
				}
				r.Percent, r.Hours, r.Start = percent, hours, begin
				list.Releases = append(list.Releases, r)
			}
			text, err := list.Sign(private...)
			if err != nil {
				return err
			}
			at := filepath.Join(dir, update.ChannelFile)
			if err := errors.Join(os.WriteFile(at+".new", text, 0o644), os.Rename(at+".new", at)); err != nil {
				return fmt.Errorf("writing the channel's list: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d updates, good until %s\n", at, len(list.Releases), list.Expires.Format(time.RFC3339))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "stable", "the channel's name")
	f.StringVar(&dir, "dir", ".", "the channel's directory, where the bundles are")
	f.StringArrayVar(&keys, "key", nil, "private key (PEM); give it again for the next one")
	f.IntVar(&percent, "percent", 100, "of machines that update by themselves: how many do")
	f.StringVar(&start, "start", "", "when the first of them do (RFC 3339; default: now)")
	f.IntVar(&hours, "hours", 72, "over how many hours the others follow")
	f.DurationVar(&fresh, "fresh", 14*24*time.Hour, "how long the list is good")
	_ = c.MarkFlagRequired("key")
	return c
}

// releaseOf reads a bundle, all of it, as the line of a channel.
func releaseOf(path string, keys update.Keys) (update.Release, error) {
	f, err := os.Open(path)
	if err != nil {
		return update.Release{}, fmt.Errorf("reading a bundle: %w", err)
	}
	defer f.Close()
	m, err := update.Open(f, keys)
	if err == nil {
		err = m.Copy(io.Discard, f)
	}
	if err != nil {
		return update.Release{}, fmt.Errorf("%s: %w", path, err)
	}
	at, err := f.Stat()
	if err != nil {
		return update.Release{}, err
	}
	return update.Release{Version: m.Version, Architecture: m.Architecture, Flavour: m.Flavour, Follows: m.Follows, File: filepath.Base(path), Size: at.Size(), SHA256: m.SHA256, Notes: m.Notes}, nil
}

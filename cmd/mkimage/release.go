package main

import (
	"context"
	"crypto/ed25519"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lazaret/image"
	"lazaret/image/format"
	"lazaret/image/release"
)

func init() { after = append(after, writeForms, writeBOM) }

// writeForms makes the disk's other forms beside it.
func writeForms(ctx context.Context, c image.Config, r image.Result) error {
	return convert(ctx, r.Raw, 0, c.Version, func(kind format.Kind, path string, took time.Duration, size int64) {
		c.Log.Info("made", "file", path, "bytes", size, "seconds", took.Round(10*time.Millisecond).Seconds())
	})
}

// convert makes every form of the disk raw, declared to have size bytes, beside it.
func convert(ctx context.Context, raw string, size int64, version string, made func(format.Kind, string, time.Duration, int64)) error {
	d, file, err := format.Open(raw, size)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, kind := range format.Kinds {
		start := time.Now()
		path := strings.TrimSuffix(raw, ".raw") + "." + string(kind)
		if err := format.Write(ctx, kind, d, path, format.Machine{Name: "lazaret", Version: version}); err != nil {
			return err
		}
		at, err := os.Stat(path)
		if err != nil {
			return err
		}
		made(kind, path, time.Since(start), at.Size())
	}
	return nil
}

// writeBOM lists what the image is made of beside it.
func writeBOM(_ context.Context, c image.Config, r image.Result) error {
	program, err := buildinfo.ReadFile(c.Program)
	if err != nil {
		return fmt.Errorf("reading what %s is built of: %w", c.Program, err)
	}
	contents := release.Contents{Name: "lazaret-" + c.Flavour, Version: c.Version, Arch: c.Arch, Time: c.Time, Program: program}
	for _, p := range r.Packages {
		contents.Packages = append(contents.Packages, release.Package{Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256})
	}
	for _, p := range r.Parts {
		f := release.File{Path: p.Path, Package: p.Name, Size: p.Size}
		if p.Source == "" { // else the sum is the package's
			f.SHA256 = p.SHA256
		}
		contents.Files = append(contents.Files, f)
	}
	bom, err := release.NewBOM(contents)
	if err != nil {
		return err
	}
	return writeWhole(strings.TrimSuffix(r.Raw, ".raw")+".cdx.json", func(w io.Writer, _ *os.File) error {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		return e.Encode(bom)
	})
}

func convertCommand() *cobra.Command {
	var size int64
	var version string
	cmd := &cobra.Command{
		Use: "convert DISK.raw", Short: "Write a raw disk in every form that hypervisors take, beside it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return convert(cmd.Context(), args[0], size, version, func(_ format.Kind, path string, took time.Duration, size int64) {
				fmt.Fprintf(cmd.OutOrStdout(), "%12d bytes %6.2f s  %s\n", size, took.Seconds(), path)
			})
		},
	}
	cmd.Flags().Int64Var(&size, "size", 0, "bytes the virtual disk is declared to have; the machine grows into it (default: as the raw disk)")
	cmd.Flags().StringVar(&version, "version", "", "version that importers show")
	_ = cmd.MarkFlagRequired("version") // the flag is defined above
	return cmd
}

func releaseCommand() *cobra.Command {
	var key string
	var unsigned bool
	cmd := &cobra.Command{
		Use: "release DIR", Short: "Write checksums of the files in a directory, and sign them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var private ed25519.PrivateKey
			if key != "" {
				var err error
				if private, err = release.LoadKey(key); err != nil {
					return err
				}
			}
			if err := release.Finish(args[0], private, unsigned); err != nil {
				return err
			}
			if unsigned {
				fmt.Fprintln(cmd.ErrOrStderr(), "not signed: this is a development build, and says so")
			}
			fmt.Fprintln(cmd.OutOrStdout(), filepath.Join(args[0], release.SumsFile))
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "signing key, as mkimage key new made it")
	cmd.Flags().BoolVar(&unsigned, "unsigned", false, "make a development build that nobody signs")
	return cmd
}

func verifyCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use: "verify DIR", Short: "Hold the files of a release to their checksums and signature", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			public, err := release.LoadPublicKey(key)
			if err != nil {
				return err
			}
			if err := release.Verify(args[0], public); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), args[0]+": every file is the one that was released")
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "pub", "", "public key of whoever releases")
	_ = cmd.MarkFlagRequired("pub") // the flag is defined above
	return cmd
}

func keyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Keys that releases, and programs for Secure Boot, are signed with"}
	cmd.AddCommand(secureBootKeyCommand(), &cobra.Command{
		Use: "new FILE", Short: "Make a signing key in FILE and its public half in FILE" + release.PublicSuffix, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			public, err := release.NewKey(args[0])
			if err != nil {
				return err
			}
			print, err := release.Fingerprint(public)
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "SHA-256 of the public key:", print)
			}
			return err
		},
	})
	return cmd
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"lazaret/image/pkg"
	"lazaret/packaging"
)

func debCommand() *cobra.Command {
	var g pkg.Gateway
	var bin, source, out string
	cmd := &cobra.Command{
		Use: "deb", Short: "Make the Debian package for those who keep a Debian of their own", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g.Packaging = packaging.Files
			path, err := makeDeb(g, bin, source, out)
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&g.Architecture, "arch", "amd64", "architecture: amd64 or arm64")
	f.StringVar(&g.Version, "version", "", "version of the release, like 1.2.3")
	f.StringVar(&bin, "bin", "bin", "directory of static lazaretd, lazaretctl and lazaret for the architecture")
	f.StringVar(&source, "source", ".", "directory of LICENSE and docs")
	f.StringVar(&out, "out", "", "directory for the package")
	for _, name := range []string{"version", "out"} {
		_ = cmd.MarkFlagRequired(name) // the flag is defined above
	}
	return cmd
}

// makeDeb makes the package in the directory out and returns its path.
func makeDeb(g pkg.Gateway, bin, source, out string) (path string, err error) {
	g.Programs, g.Completions = make(map[string]string), make(map[string]pkg.Shells)
	for _, name := range []string{"lazaretd", "lazaretctl", "lazaret"} {
		g.Programs[name] = filepath.Join(bin, name)
		if g.Completions[name], err = completions(name); err != nil {
			return "", err
		}
	}
	if g.License, err = os.ReadFile(filepath.Join(source, "LICENSE")); err != nil {
		return "", fmt.Errorf("packaging: %w", err)
	}
	pages, err := filepath.Glob(filepath.Join(source, "docs", "*.md"))
	if err != nil {
		return "", fmt.Errorf("packaging: %w", err)
	}
	g.Docs = make(map[string][]byte)
	for _, page := range pages {
		if g.Docs[filepath.Base(page)], err = os.ReadFile(page); err != nil {
			return "", fmt.Errorf("packaging: %w", err)
		}
	}
	if g.Time, err = sourceTime(); err != nil {
		return "", err
	}
	p, err := g.Package()
	if err != nil {
		return "", err
	}
	path = filepath.Join(out, p.Filename())
	return path, writeWhole(path, func(w io.Writer, scratch *os.File) error { return p.Write(w, scratch) })
}

// completions are the shells' scripts for a program: they ask the program itself, so that
// its name is all they hold.
func completions(name string) (s pkg.Shells, err error) {
	c := &cobra.Command{Use: name}
	var bash, zsh bytes.Buffer
	if err := errors.Join(c.GenBashCompletionV2(&bash, true), c.GenZshCompletion(&zsh)); err != nil {
		return s, fmt.Errorf("making completions of %s: %w", name, err)
	}
	return pkg.Shells{Bash: bash.Bytes(), Zsh: zsh.Bytes()}, nil
}

// sourceTime is SOURCE_DATE_EPOCH, or 1980.
func sourceTime() (time.Time, error) {
	e := os.Getenv("SOURCE_DATE_EPOCH")
	if e == "" {
		return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), nil
	}
	seconds, err := strconv.ParseInt(e, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// writeWhole makes a file that is whole or not there; do may use a scratch file beside it.
func writeWhole(path string, do func(w io.Writer, scratch *os.File) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	var files [2]*os.File
	for i := range files {
		if files[i], err = os.CreateTemp(filepath.Dir(path), ".making-*"); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		defer os.Remove(files[i].Name()) // the first was renamed if all went well
		defer files[i].Close()
	}
	if err := do(files[0], files[1]); err != nil {
		return err
	}
	err = errors.Join(files[0].Chmod(0o644), files[0].Sync(), files[0].Close())
	if err == nil {
		err = os.Rename(files[0].Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

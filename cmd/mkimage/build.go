package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"lazaret/image"
	"lazaret/image/packages"
)

// after are run, in order, on an image that was built: each makes more files beside it.
var after = []func(context.Context, image.Config, image.Result) error{}

func buildCommand(log *slog.Logger) *cobra.Command {
	c := image.Config{Log: log, Store: &packages.Store{Log: log}}
	var keys, authorities []string
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build one image, its update file and what is made of them",
		Long: `Build one image out of the gateway's program and pinned Debian packages, without root,
mounts or other programs. SOURCE_DATE_EPOCH (seconds since 1970) dates the files on the
EFI partition; without it they are of 1980. The machine's clock is never before that time, nor
before the day on which the table of packages was written.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range keys {
				text, err := os.ReadFile(name)
				if err != nil {
					return fmt.Errorf("reading an update key: %w", err)
				}
				c.Keys = append(append(c.Keys, text...), '\n')
			}
			for _, name := range authorities {
				text, err := os.ReadFile(name)
				if err != nil {
					return fmt.Errorf("reading an authority: %w", err)
				}
				c.Authorities = append(append(c.Authorities, text...), '\n')
			}
			return build(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&keys, "update-key", nil, "public key that the image takes updates from, as PEM; the current one and the next")
	f.StringSliceVar(&authorities, "authority", nil, "certificate of an authority as PEM, for an update channel of your own; the gateway believes it as it does public ones, in every TLS connection, and an image built without it no longer does")
	f.StringVar(&c.Arch, "arch", "amd64", "architecture: amd64 or arm64")
	f.StringVar(&c.Flavour, "flavour", "cloud", "kernel: cloud (virtual machines) or metal (everything)")
	f.StringVar(&c.Version, "version", "", "version of the image, like 1.2.3")
	f.StringVar(&c.Program, "program", "", "static lazaretd binary for the architecture")
	f.StringVar(&c.Out, "out", "", "directory for the files made")
	f.Int64Var(&c.Size, "size", image.DefaultSize, "size of the disk in bytes")
	storeFlags(cmd, c.Store)
	secureBootFlags(cmd, &c)
	for _, name := range []string{"version", "program", "out", "update-key"} {
		cmd.MarkFlagRequired(name)
	}
	return cmd
}

func storeFlags(cmd *cobra.Command, s *packages.Store) {
	cache := ".packages"
	if dir, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(dir, "lazaret", "packages")
	}
	f := cmd.Flags()
	f.StringVar(&s.Dir, "packages", cache, "directory of Debian packages; what is not there is fetched into it")
	f.StringVar(&s.Mirror, "mirror", packages.DefaultMirror, "URL of Debian's archive")
	f.BoolVar(&s.Offline, "offline", false, "fetch nothing")
}

func build(ctx context.Context, c image.Config) error {
	var err error
	if c.Packages, err = packages.Pinned(); err != nil {
		return err
	}
	if e := os.Getenv("SOURCE_DATE_EPOCH"); e != "" {
		seconds, err := strconv.ParseInt(e, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		c.Time = time.Unix(seconds, 0)
	}
	start := time.Now()
	r, err := image.Build(ctx, c)
	if err != nil {
		return err
	}
	c.Log.Info("built", "disk", r.Raw, "slot", r.UKI, "kernel", r.Release, "seconds", time.Since(start).Round(100*time.Millisecond).Seconds())
	for _, more := range after {
		if err := more(ctx, c, r); err != nil {
			return err
		}
	}
	return nil
}

func fetchCommand(log *slog.Logger) *cobra.Command {
	s := &packages.Store{Log: log}
	var arch, flavour string
	cmd := &cobra.Command{
		Use:   "fetch",
		Short: "Fetch the packages an image needs, and build nothing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := packages.Pinned()
			if err != nil {
				return err
			}
			need, err := image.Needs(list, arch, flavour)
			if err != nil {
				return err
			}
			for _, p := range need {
				name, err := s.Get(cmd.Context(), p)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&arch, "arch", "amd64", "architecture: amd64 or arm64")
	cmd.Flags().StringVar(&flavour, "flavour", "cloud", "kernel: cloud or metal")
	storeFlags(cmd, s)
	return cmd
}

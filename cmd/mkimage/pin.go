package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"lazaret/image"
	"lazaret/image/packages"
)

func pinCommand() *cobra.Command {
	var part bool
	c := &cobra.Command{
		Use: "pin", Short: "Write the table of pinned packages anew", Args: cobra.NoArgs,
		Long: `Write the table of packages that images are made of, image/packages/table.txt, from what apt
says of them: on a Debian of the release that is wanted, with its archive's keys, as apt has
verified by the archive's signature what it says here.

Take the newest kernels: their names hold their version, and linux-image-6.12-amd64 and its
like depend on them. For arm64, dpkg --add-architecture arm64 first.`,
		Example: `  apt-get update
  apt-cache show --no-all-versions ca-certificates systemd-boot-efi systemd-boot-efi:arm64 \
    linux-image-6.12.117+deb12-amd64 linux-image-6.12.117+deb12-cloud-amd64 \
    linux-image-6.12.117+deb12-arm64:arm64 linux-image-6.12.117+deb12-cloud-arm64:arm64 |
    mkimage pin > table.txt`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := packages.Pin(cmd.InOrStdin())
			if err != nil {
				return err
			}
			var missing []error
			for _, arch := range []string{"amd64", "arm64"} {
				for _, flavour := range []string{"cloud", "metal"} {
					_, err := image.Needs(list, arch, flavour)
					missing = append(missing, err)
				}
			}
			if err := errors.Join(missing...); err != nil && !part {
				return err
			}
			return packages.Write(cmd.OutOrStdout(), list, time.Now())
		},
	}
	c.Flags().BoolVar(&part, "part", false, "also where packages of some image are missing")
	return c
}

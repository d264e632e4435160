package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"lazaret/image"
	"lazaret/image/sign"
)

func signCommand() *cobra.Command {
	var keyFile, certFile, out string
	cmd := &cobra.Command{
		Use: "sign PROGRAM.efi", Short: "Sign an EFI program, so that firmware with Secure Boot that knows the certificate starts it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, cert, err := sign.Load(keyFile, certFile)
			if err != nil {
				return err
			}
			program, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("reading the program to sign: %w", err)
			}
			signed, err := sign.Sign(program, key, cert)
			if err != nil {
				return err
			}
			if out == "" {
				out = args[0]
			}
			return writeWhole(out, func(w io.Writer, _ *os.File) error {
				_, err := w.Write(signed)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "RSA key, as mkimage key secureboot made it")
	cmd.Flags().StringVar(&certFile, "cert", "", "its certificate")
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: the program itself)")
	for _, name := range []string{"key", "cert"} {
		_ = cmd.MarkFlagRequired(name) // the flag is defined above
	}
	return cmd
}

func secureBootKeyCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "secureboot FILE", Short: "Make an RSA key for Secure Boot in FILE and its certificate in FILE" + sign.CertSuffix, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := sign.NewKey(args[0], name)
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "Lazaret Secure Boot", "name in the certificate")
	return cmd
}

// secureBootFlags has cmd take a key and a certificate for Secure Boot, and c sign with them.
func secureBootFlags(cmd *cobra.Command, c *image.Config) {
	var keyFile, certFile string
	cmd.Flags().StringVar(&keyFile, "secureboot-key", "", "RSA key that loader and slot are signed with for Secure Boot (default: not signed)")
	cmd.Flags().StringVar(&certFile, "secureboot-cert", "", "its certificate")
	cmd.MarkFlagsRequiredTogether("secureboot-key", "secureboot-cert")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if keyFile == "" {
			return nil
		}
		key, cert, err := sign.Load(keyFile, certFile)
		c.Sign = func(program []byte) ([]byte, error) { return sign.Sign(program, key, cert) }
		return err
	}
}

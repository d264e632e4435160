package plane

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"

	"lazaret/internal/config"
	"lazaret/internal/testnet"
)

func TestMain(m *testing.M) {
	testnet.Main(map[string]testnet.Role{"stig": func(ctx context.Context, args []string) error {
		c, err := config.Load(args[0])
		if err != nil {
			return err
		}
		return testnet.Report(Stig(ctx, c, 0))
	}, "dataplane": func(ctx context.Context, args []string) error {
		c, err := config.Load(args[0])
		if err != nil {
			return err
		}
		var report error
		err = Run(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, nil)), func() { report = testnet.Report("ready") })
		return errors.Join(err, report)
	}})
	os.Exit(m.Run())
}

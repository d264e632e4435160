package testnet

import (
	"context"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	Main(map[string]Role{
		"nap": func(ctx context.Context, args []string) error {
			if err := Report(args); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		},
	})
	os.Exit(m.Run())
}

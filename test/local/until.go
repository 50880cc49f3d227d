package local

import (
	"context"
	"fmt"
	"time"
)

// Until calls check at once and then at every interval until it returns nil. It
// returns the last error of check when that takes longer than limit, or ctx ends.
func Until(ctx context.Context, limit, interval time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, limit, err)
		case <-ticker.C:
		}
	}
}

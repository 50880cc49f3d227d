package health_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/health"
)

func TestCheckNamesEverythingThatIsWrong(t *testing.T) {
	var none, starting, full, away error
	checker := health.New(health.Options{
		Ready: func() error { return starting },
		Write: func() error { return full },
		Vault: func(context.Context) error { return away },
	})
	if err := checker.Check(t.Context()); err != nil {
		t.Errorf("all is well: %v", err)
	}
	full = errors.New("no space left on device")
	if err := checker.Check(t.Context()); !errors.Is(err, full) || !strings.Contains(err.Error(), "store") {
		t.Errorf("full disk: %v", err)
	}
	starting, away = errors.New("starting"), errors.New("connection refused")
	err := checker.Check(t.Context())
	for _, cause := range []error{starting, full, away} {
		if !errors.Is(err, cause) {
			t.Errorf("%v is not in %v", cause, err)
		}
	}
	starting, full, away = none, none, none
	if err := checker.Check(t.Context()); err != nil {
		t.Errorf("all is well again: %v", err)
	}
}

func TestADiskThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var writes atomic.Int32
		answers := make(chan struct{})
		checker := health.New(health.Options{
			Ready: func() error { return nil },
			Vault: func(context.Context) error { return nil },
			Write: func() error {
				writes.Add(1)
				<-answers
				return nil
			},
		})
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := checker.Check(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("check = %v", err)
			}
			cancel()
		}
		if writes.Load() != 1 {
			t.Errorf("%d writes wait", writes.Load())
		}
		close(answers)
		synctest.Wait()
		if err := checker.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

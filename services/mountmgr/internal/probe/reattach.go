package probe

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/reattach"
)

// Reattach has a process do the job; context.DeadlineExceeded when ctx ends.
// What it has not done by then is as it was.
func (p *Prober) Reattach(ctx context.Context, job reattach.Job) (reattach.Report, error) {
	argument, err := json.Marshal(job)
	if err != nil {
		return reattach.Report{}, fmt.Errorf("encode job: %w", err)
	}
	var report reattach.Report
	err = p.run(ctx, &report, question{name: "reattach", path: job.MountPath, args: []string{string(argument)}})
	return report, err
}

package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/process"
)

const (
	// filesStage is the name under which a file that cannot be written fails.
	filesStage = "files"
	// maxStageOutput is how much of a stage's output is searched for the texts
	// of ignore_output, in bytes.
	maxStageOutput = 64 << 10
	// maxExplanation is how many lines of standard output explain a failure that
	// left nothing on standard error; the usage text follows them.
	maxExplanation = 3
	// drainTime is how long descendants may keep the output of a process open
	// after its end.
	drainTime = time.Second
)

// runner starts the processes of a spec.
type runner struct {
	processes *process.Table
	// own is the program's own environment.
	own []string
	log *output.Log
}

// prepare writes the files and runs the stages; not in the loop. It says
// whether all succeeded.
func (s *supervisor) prepare(ctx context.Context, spec *launchv1.Spec, stages []*launchv1.Stage) bool {
	if err := writeFiles(spec.GetFiles()); err != nil {
		s.post(func() { s.stageEnded(filesStage, &launchv1.ExitStatus{Code: -1, Error: err.Error()}, false) })
		return false
	}
	for _, stage := range stages {
		if ctx.Err() != nil {
			return false
		}
		s.post(func() {
			s.event(&launchv1.Event{Event: &launchv1.Event_StageStarted{StageStarted: &launchv1.StageStarted{Name: stage.GetName()}}})
		})
		exit, succeeded := s.runStage(ctx, spec, stage)
		s.post(func() { s.stageEnded(stage.GetName(), exit, succeeded) })
		if !succeeded {
			return false
		}
	}
	return true
}

// handleRunStage runs a stage beside the client that serves.
func (s *supervisor) handleRunStage(ctx context.Context, r *request, stage *launchv1.Stage) error {
	if s.state != stateServing || s.stop != nil {
		return fmt.Errorf("run stage: no client serves (%s): %w", s.state, errdefs.ErrFailedPrecondition)
	}
	if err := validateStage(stage); err != nil {
		return err
	}
	spec := s.spec
	go func() {
		exit, succeeded := s.runStage(ctx, spec, stage)
		result := &launchv1.RunStageResult{Exit: exit, Succeeded: succeeded}
		r.reply(&launchv1.Reply{Result: &launchv1.Reply_RunStage{RunStage: result}}, nil)
	}()
	return nil
}

// runStage runs one stage to its end, its time limit or the end of ctx.
func (r runner) runStage(ctx context.Context, spec *launchv1.Spec, stage *launchv1.Stage) (*launchv1.ExitStatus, bool) {
	limit := stage.GetTimeout().AsDuration()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var all strings.Builder
	tail := new(output.Tail)
	mask := newMask(spec)
	started, err := r.start(stage.GetProcess().GetArgv(), environment(r.own, spec), func(line string, isError bool) {
		if all.Len() < maxStageOutput {
			all.WriteString(line + "\n")
		}
		line = mask.Apply(line)
		r.log.Line(line)
		if isError {
			tail.Add(line)
		}
	})
	if err != nil {
		return &launchv1.ExitStatus{Code: -1, Error: err.Error()}, false
	}
	failure := ""
	select {
	case <-started.process.Done():
	case <-ctx.Done():
		failure = "stopped"
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			failure = fmt.Sprintf("took longer than %s", limit)
		}
		if err := started.process.SignalGroup(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			failure += ", " + err.Error()
		}
		<-started.process.Done()
	}
	<-started.drained
	lines := tail.Lines()
	if len(lines) == 0 { // the client explains wrong arguments on standard output
		lines = strings.Split(mask.Apply(all.String()), "\n")
		lines = lines[:min(len(lines), maxExplanation)]
	}
	exit := exitStatus(started.process.Status(), lines)
	exit.Error = failure
	return exit, failure == "" && (exit.GetCode() == 0 || containsAny(all.String(), stage.GetIgnoreOutput()))
}

func containsAny(text string, parts []string) bool {
	for _, part := range parts {
		if part != "" && strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// started is a process together with its output.
type started struct {
	process *process.Process
	// drained is closed when all output of the ended process was handled.
	drained chan struct{}
}

// writeFiles writes the files of a spec, each at once, below directories that
// only our user enters if they are new.
func writeFiles(files []*launchv1.File) error {
	for _, file := range files {
		if err := writeFile(file); err != nil {
			return fmt.Errorf("write file %s: %w", file.GetPath(), err)
		}
	}
	return nil
}

func writeFile(file *launchv1.File) error {
	directory := filepath.Dir(file.GetPath())
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	mode := os.FileMode(file.GetMode()) & os.ModePerm
	if mode == 0 {
		mode = 0o600
	}
	temporary, err := os.CreateTemp(directory, ".jfs-launch-*")
	if err != nil {
		return err
	}
	_, err = temporary.Write(file.GetContent())
	err = errors.Join(err, temporary.Chmod(mode), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), file.GetPath())
	}
	if err != nil {
		os.Remove(temporary.Name()) //nolint:errcheck // the first error counts
	}
	return err
}

package launch_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
)

func stage(t *testing.T, name string, limit time.Duration, arguments ...string) *launchv1.Stage {
	t.Helper()
	return &launchv1.Stage{
		Name:    name,
		Process: &launchv1.Process{Argv: append([]string{executable(t), "fake-stage"}, arguments...)},
		Timeout: durationpb.New(limit),
	}
}

// stages collects the events of stages up to the first other event.
func (m *manager) stages() (names []string, last *launchv1.StageEnded, other *launchv1.Event) {
	m.t.Helper()
	for {
		event := m.next()
		switch {
		case event.GetStageStarted() != nil:
			names = append(names, "+"+event.GetStageStarted().GetName())
		case event.GetStageEnded() != nil:
			last = event.GetStageEnded()
			names = append(names, "-"+last.GetName())
			if !last.GetSucceeded() {
				return names, last, nil
			}
		default:
			return names, last, event
		}
	}
}

func TestStagesRunBeforeTheClient(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	spec := s.spec(t, "")
	file := filepath.Join(s.directory, "new/key")
	spec.Files = []*launchv1.File{{Path: file, Content: []byte("private key")}}
	quota := stage(t, "quota", patience, "invalid command: quota", "1")
	quota.IgnoreOutput = []string{"No help topic", "invalid command: quota"}
	spec.Stages = []*launchv1.Stage{stage(t, "format", patience, "formatted", "0", file), quota}
	m.call(start(&launchv1.Start{Spec: spec}), descriptor)
	names, _, event := m.stages()
	if got := strings.Join(names, " "); got != "+format -format +quota -quota" || event.GetServing() == nil {
		t.Fatalf("got %s, then %v", got, event)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestFailedStageEndsTheStart(t *testing.T) {
	for name, test := range map[string]struct {
		limit     time.Duration
		arguments []string
		code      int32
		problem   string
	}{
		"exit code":  {patience, []string{"cannot open redis://:s3cret-token@db and redis://:other@db", "1"}, 1, ""},
		"time limit": {50 * time.Millisecond, []string{"waiting for s3cret-token", "sleep"}, 137, "took longer than 50ms"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			m := connect(t, s.socket)
			m.hello()
			descriptor, _ := connection(t)
			spec := s.spec(t, "")
			file := filepath.Join(s.directory, "key")
			spec.Files = []*launchv1.File{{Path: file, Content: []byte("private key"), Mode: 0o640}}
			spec.Stages = []*launchv1.Stage{stage(t, "format", test.limit, append(test.arguments, file)...)}
			m.call(start(&launchv1.Start{Spec: spec}), descriptor)
			names, last, _ := m.stages()
			if strings.Join(names, " ") != "+format -format" || last.GetExit().GetCode() != test.code || last.GetExit().GetError() != test.problem {
				t.Errorf("got %v, %v", names, last)
			}
			if status := m.status(); status.GetState() != launchv1.Status_STATE_FAILED || status.GetHoldsDescriptor() {
				t.Errorf("got %v", status)
			}
			data, err := os.ReadFile(s.termination)
			if err != nil {
				t.Fatal(err)
			}
			var message launch.Termination
			if err := json.Unmarshal(data, &message); err != nil || message.Stage != "format" || message.Code != test.code {
				t.Errorf("got %s, %v", data, err)
			}
			for _, text := range []string{string(data), last.String()} {
				if strings.Contains(text, "s3cret") || strings.Contains(text, "private") || strings.Contains(text, ":other@") {
					t.Errorf("a secret got out: %s", text)
				}
			}
			// The program can be used again, for a mount with better settings.
			spec.Stages = nil
			again, _ := connection(t)
			m.call(start(&launchv1.Start{Spec: spec}), again)
			m.serving()
		})
	}
}

func TestStopInTheStages(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	spec := s.spec(t, "")
	spec.Stages = []*launchv1.Stage{stage(t, "format", time.Hour, "", "sleep")}
	m.call(start(&launchv1.Start{Spec: spec}), descriptor)
	if event := m.next(); event.GetStageStarted().GetName() != "format" {
		t.Fatalf("got %v", event)
	}
	m.call(stop(0))
	s.exits(t, 0)
}

func TestMissingClient(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	spec := s.spec(t, "")
	spec.Client = &launchv1.Process{Argv: []string{"juicefs-that-is-not-there", "redis://:pw@host"}}
	m.call(start(&launchv1.Start{Spec: spec}), descriptor)
	if exit := m.ended(false); !strings.Contains(exit.GetError(), "juicefs-that-is-not-there") || strings.Contains(exit.GetError(), "pw") {
		t.Errorf("got %v", exit)
	}
}

func runStage(stage *launchv1.Stage) *launchv1.Command {
	return &launchv1.Command{Operation: &launchv1.Command_RunStage{RunStage: &launchv1.RunStage{Stage: stage}}}
}

func TestAStageBesideTheClient(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	m.refused(failedPrecondition, runStage(stage(t, "quota", patience, "set", "0")))
	descriptor, _ := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "")}), descriptor)
	if event := m.next(); event.GetServing() == nil {
		t.Fatal(event)
	}
	m.refused(invalidArgument, runStage(&launchv1.Stage{Name: "quota"}))
	ignored := stage(t, "quota", patience, "invalid command: quota", "1")
	ignored.IgnoreOutput = []string{"invalid command: quota"}
	for name, c := range map[string]struct {
		stage     *launchv1.Stage
		code      int32
		succeeded bool
	}{
		"success":    {stage(t, "quota", patience, "set", "0"), 0, true},
		"failure":    {stage(t, "quota", patience, "no s3cret-token", "1"), 1, false},
		"ignored":    {ignored, 1, true},
		"time limit": {stage(t, "quota", 50*time.Millisecond, "waiting", "sleep"), 137, false},
	} {
		result := m.call(runStage(c.stage)).reply.GetRunStage()
		if result.GetExit().GetCode() != c.code || result.GetSucceeded() != c.succeeded {
			t.Errorf("%s: %v", name, result)
		}
		if text := strings.Join(result.GetExit().GetStderr(), "\n"); strings.Contains(text, "s3cret") {
			t.Errorf("%s tells a secret: %s", name, text)
		}
	}
	status := m.call(&launchv1.Command{Operation: &launchv1.Command_GetStatus{GetStatus: &launchv1.GetStatus{}}}).reply.GetStatus()
	if status.GetState() != launchv1.Status_STATE_SERVING {
		t.Errorf("the client does not serve any more: %v", status)
	}
}

package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/nodeagent/nodeagent/test/bed/tools"
)

// record describes a cluster in its run folder, completely enough to remove the cluster without the
// process that started it.
type record struct {
	ID    string    `json:"id"`
	Owner processID `json:"owner"` // the process that started the cluster
	// a complete cluster outlives its owner
	Detached bool            `json:"detached"`
	Complete bool            `json:"complete"`          // Start has returned it
	Scratch  bool            `json:"scratch,omitempty"` // no cluster: see NewScratch
	Machines []machineRecord `json:"machines"`
	// processes outside machines, such as User-Mode Linux kernels
	Foreign []processID `json:"foreign,omitempty"`
	Cgroups []string    `json:"cgroups,omitempty"` // names below every cgroup hierarchy's root
	Token   string      `json:"token"`             // bootstrap token
	Env     []string    `json:"env,omitempty"`     // what `bed env` prints
}

type machineRecord struct {
	Name   string    `json:"name"`
	NetNS  string    `json:"netns"`
	Holder processID `json:"holder"`
	Node   *NodeNet  `json:"node,omitempty"`
	Path   string    `json:"path,omitempty"` // PATH, if it is not the cluster's
}

// machine returns the machine's part of the record, and creates it if necessary.
func (r *record) machine(name string) *machineRecord {
	for i := range r.Machines {
		if r.Machines[i].Name == name {
			return &r.Machines[i]
		}
	}
	r.Machines = append(r.Machines, machineRecord{Name: name})
	return &r.Machines[len(r.Machines)-1]
}

// recordFile is the record's name in the run folder.
const recordFile = "bed.json"

// run is a run folder and its record. Its methods are safe for concurrent use.
type run struct {
	dir string
	mu  sync.Mutex
	rec record
}

// BaseDir is the folder of the run folders: $NODEAGENT_BED_DIR, or /var/tmp/nodeagent-bed. Its file
// system must support overlayfs upper layers.
func BaseDir() string {
	if d := os.Getenv("NODEAGENT_BED_DIR"); d != "" {
		return d
	}
	return "/var/tmp/nodeagent-bed"
}

// lockBase prevents others from creating or sweeping runs.
func lockBase(ctx context.Context) (func(), error) {
	return tools.Lock(ctx, filepath.Join(BaseDir(), "lock"))
}

// newRun sweeps dead runs, then creates the run folder for id.
func newRun(ctx context.Context, rec record) (*run, error) {
	unlock, err := lockBase(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := sweepLocked(ctx); err != nil {
		return nil, err
	}
	r := &run{dir: filepath.Join(BaseDir(), rec.ID), rec: rec}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("making run folder %q: a cluster of this name is running: %w; take it down first", r.dir, err)
		}
		return nil, fmt.Errorf("making run folder: %w", err)
	}
	if err := os.Mkdir(r.path("log"), 0o755); err != nil {
		return nil, fmt.Errorf("making log folder: %w", err)
	}
	return r, r.update(func(*record) {})
}

// loadRun reads the run folder of a cluster that another process started.
func loadRun(dir string) (*run, error) {
	content, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, fmt.Errorf("reading run folder: %w", err)
	}
	r := &run{dir: dir}
	if err := json.Unmarshal(content, &r.rec); err != nil {
		return nil, fmt.Errorf("reading record in run folder %q: %w", dir, err)
	}
	return r, nil
}

func (r *run) path(elem ...string) string {
	return filepath.Join(append([]string{r.dir}, elem...)...)
}

// update changes the record and writes it to disk: what is recorded first can be swept later.
func (r *run) update(change func(*record)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.rec)
	content, err := json.MarshalIndent(r.rec, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding record: %w", err)
	}
	tmp := r.path(recordFile + ".new")
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	if err := os.Rename(tmp, r.path(recordFile)); err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	return nil
}

func (r *run) snapshot() record {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.rec
	c.Machines = append([]machineRecord(nil), c.Machines...)
	c.Foreign = append([]processID(nil), c.Foreign...)
	c.Cgroups = append([]string(nil), c.Cgroups...)
	c.Env = append([]string(nil), c.Env...)
	return c
}

// alive reports whether the cluster is still in use.
func (r record) alive() bool {
	if r.Owner.alive() {
		return true
	}
	return r.Detached && r.Complete && len(r.Machines) > 0 && r.Machines[0].Holder.alive()
}

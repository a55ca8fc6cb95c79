package apiclient

import (
	"log/slog"
	"testing"
	"time"

	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// TestYoungRuntimeClass: a class that the watch does not have yet is found.
func TestYoungRuntimeClass(t *testing.T) {
	client := fake.NewClientset(&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "kata"}, Handler: "kata"})
	// the watch does not run
	i, err := NewInformers(InformersConfig{Client: client, NodeName: "n1", Resync: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := i.RuntimeClass(t.Context(), "kata"); err != nil || c.Handler != "kata" {
		t.Errorf("got %+v, %v", c, err)
	}
	for class, known := range map[string][]string{"": nil, "kata": {"kata"}} {
		if h, err := i.RuntimeHandler(known)(t.Context(), class); err != nil || h != class {
			t.Errorf("handler of %q: %q, %v", class, h, err)
		}
	}
	if _, err := i.RuntimeHandler([]string{"runsc"})(t.Context(), "kata"); err == nil {
		t.Error("a handler that the runtime does not know was found")
	}
	if _, err := i.RuntimeClass(t.Context(), "none"); err == nil {
		t.Error("a class that does not exist was found")
	}
}

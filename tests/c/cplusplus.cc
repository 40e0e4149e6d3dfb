// The header is C++ as well: a wrapper with a destructor, requests as futures.
#include <archipelago.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Close {
    void operator()(archipelago_volume *volume) const { archipelago_close(volume); }
};
using Volume = std::unique_ptr<archipelago_volume, Close>;

Volume open(const std::string &name)
{
    const std::string option = "volume=" + name;
    const char *options[] = {option.c_str(), nullptr};
    char error[256] = "";
    archipelago_volume *volume = nullptr;
    if (archipelago_open(options, 0, &volume, error, sizeof error) != 0) {
        throw std::runtime_error(error);
    }
    return Volume(volume);
}

extern "C" void fulfil(void *opaque, int result)
{
    static_cast<std::promise<int> *>(opaque)->set_value(result);
}

void need(bool claim, const char *words)
{
    if (!claim) {
        std::fprintf(stderr, "cplusplus.cc: not so: %s\n", words);
        std::exit(1);
    }
}

} // namespace

int main()
{
    const char *options[] = {"volume=cc", nullptr};
    need(archipelago_create(options, 1 << 20, 0, nullptr, 0) == 0, "a volume is made");
    Volume volume = open("cc");
    std::vector<char> data(100000, 'x'), back(data.size());
    iovec out = {data.data(), data.size()}, in = {back.data(), back.size()};
    std::promise<int> written, flushed, read;
    archipelago_write_submit(volume.get(), 12345, &out, 1, ARCHIPELAGO_WRITE_FUA, fulfil, &written);
    need(written.get_future().get() == 0, "a write succeeds");
    archipelago_flush_submit(volume.get(), 0, fulfil, &flushed);
    need(flushed.get_future().get() == 0, "a flush succeeds");
    archipelago_read_submit(volume.get(), 12345, &in, 1, 0, fulfil, &read);
    need(read.get_future().get() == 0 && back == data, "what was written is read");
    volume.reset();
    try {
        open("nobody");
        need(false, "an unknown volume is refused");
    } catch (const std::runtime_error &error) {
        need(std::string(error.what()).find("nobody") != std::string::npos, "the refusal names it");
    }
    return 0;
}
